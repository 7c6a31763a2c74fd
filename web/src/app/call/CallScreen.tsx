/** The call this tab carries: both pictures, the meter running, and what a person can do about either. */
import { mdiMicrophone, mdiMicrophoneOff, mdiPhone, mdiPlus, mdiVideo, mdiVideoOff, mdiVolumeHigh } from "@mdi/js";
import { useEffect, useRef, type ReactNode } from "react";
import { useCallMeter, useConnection, type CallState, type MediaState, type UseCall } from "../../client";
import { Avatar } from "../Avatar";
import { Icon } from "../Icon";
import { useBuyTokens } from "../wallet/BuyTokens";
import { MeterPanel } from "./MeterPanel";
import { otherOf } from "./otherOf";
import { useAction } from "./useAction";

interface Props {
  call: UseCall;
  state: Extract<CallState, { phase: "active" }>;
}

export function CallScreen({ call, state }: Props) {
  const { session, calls } = useCallMeter();
  const other = otherOf(state.call, session.userId);
  const payer = state.call.callerId === session.userId;
  const { media } = call;
  const { busy, run } = useAction(other);
  const buy = useBuyTokens();
  const heading = useRef<HTMLHeadingElement>(null);
  const remoteStage = useRef<HTMLDivElement>(null);
  const localStage = useRef<HTMLDivElement>(null);

  useEffect(() => heading.current?.focus(), []);

  useEffect(() => {
    calls.media.showRemoteIn(remoteStage.current ?? undefined);
    calls.media.showLocalIn(localStage.current ?? undefined);
    return () => {
      calls.media.showRemoteIn(undefined);
      calls.media.showLocalIn(undefined);
    };
  }, [calls]);

  const camera = media.camera === "on";
  const microphone = media.microphone === "on";
  return (
    <main className="call">
      <section className="stage" aria-label="Pictures">
        <div ref={remoteStage} className="remote" hidden={!media.remote.picture} />
        {!media.remote.picture && (
          <div className="no-picture">
            <Avatar userId={other} size="huge" />
            <StageNote media={media} other={other} onRetry={() => calls.media.retry()} />
          </div>
        )}
        <div className="stage-head">
          <h1 ref={heading} tabIndex={-1}>
            {other}
          </h1>
          <LineNote media={media} />
        </div>
        <div className="self" hidden={media.status === "unconfigured" || media.status === "unreachable"}>
          <div ref={localStage} className="self-picture" hidden={!camera} />
          {!camera && <span className="self-note">{selfNote(media)}</span>}
          <span className="hidden">Your own picture</span>
        </div>
        {media.soundBlocked && (
          <button type="button" className="button unblock" onClick={() => calls.media.unblockSound()}>
            <Icon path={mdiVolumeHigh} size={18} />
            <span>Turn the sound on</span>
          </button>
        )}
      </section>
      <MeterPanel state={state} payer={payer} />
      <div className="controls" role="group" aria-label="Call controls">
        <Control
          label={microphone ? "Mute" : "Unmute"}
          icon={<Icon path={microphone ? mdiMicrophone : mdiMicrophoneOff} />}
          off={!microphone}
          disabled={media.microphone !== "on" && media.microphone !== "off"}
          onClick={() => run(() => calls.media.toggleMicrophone())}
        />
        <Control
          label={camera ? "Stop video" : "Start video"}
          icon={<Icon path={camera ? mdiVideo : mdiVideoOff} />}
          off={!camera}
          disabled={media.camera !== "on" && media.camera !== "off"}
          onClick={() => run(() => calls.media.toggleCamera())}
        />
        {payer && <Control label="Top up" icon={<Icon path={mdiPlus} />} onClick={() => buy()} />}
        <button type="button" className="round end" disabled={busy} onClick={() => run(() => call.end(state.call.id))}>
          <Icon path={mdiPhone} className="hang-up" />
          <span>End</span>
        </button>
      </div>
    </main>
  );
}

interface ControlProps {
  label: string;
  icon: ReactNode;
  off?: boolean;
  disabled?: boolean;
  onClick: () => void;
}

function Control({ label, icon, off = false, disabled = false, onClick }: ControlProps) {
  return (
    <button type="button" className={off ? "round off" : "round"} disabled={disabled} onClick={onClick}>
      {icon}
      <span>{label}</span>
    </button>
  );
}

/** What stands where the other's picture would be. */
function StageNote({ media, other, onRetry }: { media: MediaState; other: string; onRetry: () => void }) {
  switch (media.status) {
    case "unconfigured":
      return (
        <p className="stage-note" role="status">
          Video isn’t set up on this server. The call is connected and metered; for sound and picture it needs an Agora
          project.
        </p>
      );
    case "unreachable":
      return (
        <div className="stage-note" role="alert">
          <p>The video service can’t be reached. The call is still connected and metered.</p>
          <button type="button" className="button" onClick={onRetry}>
            Try again
          </button>
        </div>
      );
    case "connected":
      return <p className="stage-note">{media.remote.present ? "Camera off" : `Waiting for ${other} to come in…`}</p>;
    default:
      return <p className="stage-note">Connecting sound and picture…</p>;
  }
}

function LineNote({ media }: { media: MediaState }) {
  const connection = useConnection();
  const note =
    connection === "offline"
      ? "Reconnecting to the server…"
      : media.status === "reconnecting"
        ? "Reconnecting sound and picture…"
        : media.remote.present && !media.remote.sound
          ? "Muted"
          : "";
  return (
    <p className="line-note" role="status">
      {note}
    </p>
  );
}

function selfNote({ camera, status }: MediaState): string {
  if (camera === "denied") return "Camera not allowed";
  if (camera === "missing") return "No camera";
  return status === "connected" && camera === "off" ? "Camera off" : "…";
}
