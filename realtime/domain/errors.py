"""Every refusal a caller can meet, with its stable code and whether trying again can help.

A refusal is raised before anything was changed, or after everything it left behind is in order. What a refusal looks
like on the wire is decided in one place, `realtime.edge.errors`.
"""

from __future__ import annotations

from typing import Any, ClassVar


class Refused(Exception):
    """The request was understood and is not carried out."""

    code: ClassVar[str] = "refused"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, **details: Any) -> None:
        super().__init__(message or (type(self).__doc__ or self.code).strip().splitlines()[0])
        self.message: str = self.args[0]
        self.details = details
        """What the answer carries besides code and message, named as on the wire."""


class Unauthenticated(Refused):
    """A valid token or session is needed."""

    code = "unauthenticated"


class Forbidden(Refused):
    """This needs a role the caller does not have."""

    code = "forbidden"


class CsrfRefused(Refused):
    """With a session cookie, the X-CSRF-Token header must carry the session's CSRF token."""

    code = "csrf_token_invalid"


class OriginRefused(Refused):
    """This origin is not allowed."""

    code = "origin_not_allowed"


class InvalidPayload(Refused):
    """The payload is not of the documented shape."""

    code = "invalid_payload"


class PayloadTooLarge(Refused):
    """The payload is larger than this route takes."""

    code = "payload_too_large"


class UnsupportedMediaType(Refused):
    """This route does not take that media type."""

    code = "unsupported_media_type"


class NotFound(Refused):
    """There is no such thing, or it is not yours."""

    code = "not_found"


class CalleeUnavailable(Refused):
    """No tab of the callee is connected."""

    code = "callee_unavailable"
    retryable = True


class Busy(Refused):
    """One of the two is in a call already."""

    code = "busy"
    retryable = True


class InsufficientFunds(Refused):
    """The wallet holds less than this costs."""

    code = "insufficient_funds"


class CallAlreadyAnswered(Refused):
    """Another tab has answered this call."""

    code = "call_already_answered"


class CallNotAnswered(Refused):
    """The call is still ringing."""

    code = "unavailable"
    retryable = True


class CallEnded(Refused):
    """The call has ended."""

    code = "call_ended"


class SelfCall(Refused):
    """Nobody can call themselves."""

    code = "self_call"


class RateLimited(Refused):
    """Too many of these in a minute."""

    code = "rate_limited"
    retryable = True

    def __init__(self, *, limit: int, window_s: int, retry_after_s: int, policy: str) -> None:
        super().__init__(None, retryAfter=retry_after_s)
        self.limit = limit
        self.window_s = window_s
        self.retry_after_s = retry_after_s
        self.policy = policy


class LimiterUnavailable(Refused):
    """The rate limiter cannot be reached, and money does not move without it."""

    code = "limiter_unavailable"
    retryable = True


class Unavailable(Refused):
    """Something this needs cannot be reached at the moment."""

    code = "unavailable"
    retryable = True


class IdempotencyKeyMissing(Refused):
    """This route needs an Idempotency-Key header."""

    code = "idempotency_key_missing"


class IdempotencyKeyReused(Refused):
    """This Idempotency-Key was used with another request body."""

    code = "idempotency_key_reused"


class IdempotencyInProgress(Refused):
    """The first request with this Idempotency-Key is still running."""

    code = "idempotency_in_progress"
    retryable = True


class DailyLimitExceeded(Refused):
    """This purchase would pass the daily spending limit."""

    code = "daily_limit_exceeded"


class PaymentDeclined(Refused):
    """The payment was declined."""

    code = "payment_declined"


class PaymentMethodInvalid(Refused):
    """The payment provider does not take this payment method."""

    code = "payment_method_invalid"


class PaymentsUnavailable(Refused):
    """The payment provider cannot be reached; nothing was charged."""

    code = "payments_unavailable"
    retryable = True


class NotRefundable(Refused):
    """This purchase cannot be refunded."""

    code = "purchase_not_refundable"


class RefundRefused(Refused):
    """The payment provider refused the refund."""

    code = "refund_refused"


class SignatureInvalid(Refused):
    """The signature does not fit the body, or is too old."""

    code = "signature_invalid"


KEPT = {
    refused.code: refused for refused in (PaymentDeclined, PaymentMethodInvalid, NotRefundable, RefundRefused, NotFound)
}
"""Refusals that are a request's final answer, kept with its Idempotency-Key and replayed."""
