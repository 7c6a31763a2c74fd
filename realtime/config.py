"""The settings: read once from the environment (and `.env`), checked whole, then frozen.

A value that cannot be used stops the start with one line that names it; production also refuses every default or
missing secret, and servers it would have to embed.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from realtime.domain.addresses import networks
from realtime.domain.trust import Trust

DEVELOPMENT_JWT_SECRET = "development-only-secret-of-callmeter"  # noqa: S105
DEVELOPMENT_AGORA_APP_ID = "0" * 32
"""Tokens made for it have the real form; no Agora project answers to it, which is how the page knows."""
DEVELOPMENT_AGORA_CERTIFICATE = "0" * 31 + "1"

DEFAULT_CALLS_PER_MINUTE = {Trust.BASIC: 5, Trust.VERIFIED: 15, Trust.TRUSTED: 30, Trust.VIP: 50}


class Environment(StrEnum):
    DEVELOPMENT = "development"
    PRODUCTION = "production"


class BillingRounding(StrEnum):
    PERIOD = "period"
    SECOND = "second"


class SettingsError(Exception):
    """One line that names the setting and says what is wrong with it."""


def _comma_separated(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _json_object(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError("is not a JSON object") from error


def _over_default_levels(value: dict[Trust, int]) -> dict[Trust, int]:
    return {**DEFAULT_CALLS_PER_MINUTE, **value}


def _has_address(url: str) -> bool:
    """Whether the URL names a host and, if any, a port that can be. A socket's path stands in for a host."""
    try:
        parts = urlsplit(url)
        return parts.port != 0 and bool(parts.hostname or parts.path.strip("/") or parts.query)
    except ValueError:
        return False


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.netloc or not _has_address(value):
        raise ValueError("is not an http(s) URL")
    return value.rstrip("/")


def _report_uri(value: str) -> str:
    """It stands in headers, where a separator would begin something else."""
    if not re.fullmatch(r"(/|https?://)[\w./:?&=%~@+-]*", value, re.ASCII):
        raise ValueError("is not a path or an http(s) URL fit for a header")
    return value


def _postgres_url(value: str) -> str:
    if urlsplit(value).scheme.partition("+")[0] not in {"postgres", "postgresql"}:
        raise ValueError("is not a postgresql:// URL")
    if not _has_address(value):
        raise ValueError("has no host, or a port that cannot be")
    return value


def _redis_url(value: str) -> str:
    if urlsplit(value).scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("is not a redis://, rediss:// or unix:// URL")
    if not _has_address(value):
        raise ValueError("has no host, or a port that cannot be")
    return value


def _hex32(value: str) -> str:
    if len(value) != 32 or not all(c in "0123456789abcdefABCDEF" for c in value):
        raise ValueError("is not 32 hexadecimal characters")
    return value


def _network(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        try:
            networks([name])
        except ValueError:
            raise ValueError(f"has {name!r}, which is no address or network like 10.0.0.0/8") from None
    return value


def _origin(value: tuple[str, ...]) -> tuple[str, ...]:
    for origin in value:
        parts = urlsplit(origin)
        if origin != "*" and (not parts.scheme or not parts.netloc or parts.path or parts.query or "*" in origin):
            raise ValueError(f"has {origin!r}, which is not an origin like https://app.example.com")
    return value


HttpUrl = Annotated[str, AfterValidator(_http_url)]
Hex32 = Annotated[str, AfterValidator(_hex32)]
Secrets = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]
"""One secret, or several separated by commas while they are being rotated; any of them verifies."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    environment: Environment = Environment.DEVELOPMENT
    """`production` refuses to start on a default or missing secret, and without a database and Redis."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """The port to listen on; 0 is any free one."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Web processes behind the port; see scaling."""
    meter_in_web: bool = True
    """Whether web processes meter calls and run jobs too, beside the workers."""

    database_url: Annotated[str, AfterValidator(_postgres_url)] | None = None
    """PostgreSQL 15 or newer; unset in development: an embedded one, its data under `.data/`."""
    database_pool_size: Annotated[int, Field(ge=2, le=200)] = 10
    """Connections to PostgreSQL a process may have at once, those of its jobs apart."""
    redis_url: Annotated[str, AfterValidator(_redis_url)] | None = None
    """Redis 6.2 or newer, or Valkey; unset in development: an embedded one."""
    upstash_redis_rest_url: HttpUrl | None = None
    """With its token, in the place of `REDIS_URL`: the same server is spoken to in Redis's protocol over TLS."""
    upstash_redis_rest_token: str | None = None
    """See `UPSTASH_REDIS_REST_URL`."""

    jwt_secret: str | None = None
    """Verifies HS256 tokens."""
    jwt_jwks_url: HttpUrl | None = None
    """Where the keys are published that verify RS256 and ES256 tokens."""
    trusted_proxies: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_comma_separated), AfterValidator(_network)
    ] = ()
    """Proxies whose X-Forwarded-For is believed, as addresses or networks, comma-separated."""
    allowed_origins: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_comma_separated), AfterValidator(_origin)
    ] = ()
    """Origins of pages that may use HTTP and sockets, comma-separated; `*` is for development, its default there."""

    agora_app_id: Hex32 = DEVELOPMENT_AGORA_APP_ID
    """Of the Agora project; the default stands for none, and calls have no sound and picture."""
    agora_app_certificate: Hex32 = DEVELOPMENT_AGORA_CERTIFICATE
    """Signs the tokens for the video channels."""
    agora_token_version: Literal["006", "007"] = "007"  # noqa: S105
    """The format of those tokens."""
    agora_customer_id: str | None = None
    """Of Agora's REST API, with which an unpaid call's sides are put out of the channel."""
    agora_customer_secret: str | None = None
    """See `AGORA_CUSTOMER_ID`."""
    agora_api_base: HttpUrl = "https://api.agora.io"
    """Where that API is."""
    agora_webhook_secret: Secrets = ()
    """Signs Agora's notifications; several, comma-separated, while one is rotated."""

    stripe_secret_key: str | None = None
    """Of the Stripe account; unset in development: a stand-in of Stripe on this machine."""
    stripe_publishable_key: str | None = None
    """What the page mounts Stripe's card form with."""
    stripe_webhook_secret: Secrets = ()
    """Signs Stripe's events; several, comma-separated, while one is rotated."""
    stripe_api_base: HttpUrl = "https://api.stripe.com"
    """Where Stripe's API is."""

    tokens_per_usd: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Tokens a dollar buys."""
    default_rate_tokens_per_period: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """What calls to somebody cost who has set no rate, in tokens a period."""
    platform_fee_percent: Annotated[int, Field(ge=0, le=100)] = 20
    """The platform's part of each debit."""
    billing_period_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """How long a period is that is paid in advance."""
    billing_rounding: BillingRounding = BillingRounding.PERIOD
    """`period`: a period that has begun is paid whole; `second`: its unused seconds come back."""
    call_grace_seconds: Annotated[int, Field(ge=1, le=3600)] = 10
    """How long a video token outlives the paid time, and a call the absence of all meters."""
    ring_timeout_seconds: Annotated[int, Field(ge=1, le=600)] = 45
    """How long it rings."""
    reconnect_grace_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """How long a side may be gone before the call ends."""

    money_ops_per_minute: Annotated[int, Field(ge=1)] = 10
    """Purchases a user may make in any minute."""
    rate_limit_trust_levels: Annotated[
        dict[Trust, Annotated[int, Field(ge=1)]],
        NoDecode,
        BeforeValidator(_json_object),
        AfterValidator(_over_default_levels),
    ] = DEFAULT_CALLS_PER_MINUTE
    """Calls a user of each trust level may start in any minute, as JSON; levels not named keep their default."""
    daily_spend_limit_cents: Annotated[int, Field(ge=0)] = 10_000
    """What a user may spend in a UTC day."""
    idempotency_ttl_seconds: Annotated[int, Field(ge=60)] = 86_400
    """How long a key and its answer are kept."""
    enable_enhanced_features: bool = True
    """Whether there are the new payment routes; without them only the old one answers."""

    csp_report_only: bool = False
    """Whether the content security policy only reports."""
    csp_report_uri: Annotated[str, AfterValidator(_report_uri)] = "/api/csp-report"
    """Where browsers report to."""
    log_dir: str | None = None
    """Where log files are written and rotated, a file for each process; unset: the console alone."""
    log_format: Literal["console", "json"] = "console"
    """`json`: a line of JSON for each event on the console too."""
    otel_exporter_otlp_endpoint: HttpUrl | None = None
    """The collector that traces are sent to by OTLP over HTTP; unset: none are made."""

    @model_validator(mode="after")
    def _pairs_are_whole(self) -> Self:
        """One half without the other is a mistake that would be found out late: by a token no one takes."""
        given = self.model_fields_set
        pairs = [("agora_app_id", "agora_app_certificate"), ("agora_customer_id", "agora_customer_secret")]
        if self.redis_url is None:
            pairs.append(("upstash_redis_rest_url", "upstash_redis_rest_token"))
        for one, other in pairs:
            for missing, there in ((one, other), (other, one)):
                if there in given and missing not in given:
                    raise ValueError(f"{missing.upper()} is needed with {there.upper()}")
        return self

    @model_validator(mode="after")
    def _upstash_stands_in_for_redis(self) -> Self:
        """Upstash's REST URL and token name the same server its Redis protocol answers on, over TLS."""
        if self.redis_url is None and self.upstash_redis_rest_url and self.upstash_redis_rest_token:
            host = urlsplit(self.upstash_redis_rest_url).hostname
            url = f"rediss://default:{quote(self.upstash_redis_rest_token, safe='')}@{host}:6379"
            object.__setattr__(self, "redis_url", url)
        return self

    @model_validator(mode="after")
    def _development_defaults(self) -> Self:
        if self.production:
            return self
        if not self.jwt_secret and not self.jwt_jwks_url:
            object.__setattr__(self, "jwt_secret", DEVELOPMENT_JWT_SECRET)
        if not self.allowed_origins:
            object.__setattr__(self, "allowed_origins", ("*",))
        return self

    @model_validator(mode="after")
    def _production_is_complete(self) -> Self:
        if not self.production:
            return self
        for problem, broken in {
            "DATABASE_URL is needed in production": not self.database_url,
            "REDIS_URL is needed in production": not self.redis_url,
            "JWT_SECRET or JWT_JWKS_URL is needed in production": not (self.jwt_secret or self.jwt_jwks_url),
            "JWT_SECRET is the development default": self.jwt_secret == DEVELOPMENT_JWT_SECRET,
            "JWT_SECRET is shorter than 16 characters": bool(self.jwt_secret) and len(self.jwt_secret or "") < 16,
            "ALLOWED_ORIGINS is needed in production": not self.allowed_origins,
            "ALLOWED_ORIGINS may be * only in development": "*" in self.allowed_origins,
            "AGORA_APP_ID is missing or the development default": self.agora_app_id == DEVELOPMENT_AGORA_APP_ID,
            "AGORA_APP_CERTIFICATE is missing or the development default": (
                self.agora_app_certificate == DEVELOPMENT_AGORA_CERTIFICATE
            ),
            "AGORA_WEBHOOK_SECRET is needed in production": not self.agora_webhook_secret,
            "STRIPE_SECRET_KEY is needed in production": not self.stripe_secret_key,
            "STRIPE_WEBHOOK_SECRET is needed in production": not self.stripe_webhook_secret,
        }.items():
            if broken:
                raise ValueError(problem)
        return self

    @property
    def production(self) -> bool:
        return self.environment is Environment.PRODUCTION

    @property
    def agora_configured(self) -> bool:
        """Whether an Agora project answers to the tokens this server makes."""
        return self.agora_app_id != DEVELOPMENT_AGORA_APP_ID


def load(**overrides: Any) -> Settings:
    """Read the settings; `overrides` win over the environment. Raises SettingsError with one line."""
    try:
        return Settings(**overrides)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]).upper() if first["loc"] else ""
        message = first["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:] if name else message
        raise SettingsError(f"{name}: {message}".removeprefix(": ")) from None
