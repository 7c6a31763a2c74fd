-- The newest that Agora has said of each side of a call's channel; see realtime/domain/agora_presence.py.
CREATE TABLE agora_presence (
    channel text COLLATE "C" NOT NULL,
    uid bigint NOT NULL,
    client_seq bigint NOT NULL,
    in_channel boolean NOT NULL,
    left_at bigint, -- unix seconds, by Agora's clock
    reason integer,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (channel, uid),
    CONSTRAINT agora_presence_gone_says_when CHECK (in_channel = (left_at IS NULL))
);
CREATE INDEX agora_presence_age ON agora_presence (stored_at);
