"""What everything here that talks to Stripe agrees on: the version of its API, and that the library reports nothing."""

from __future__ import annotations

import stripe

API_VERSION = "2026-07-29.dahlia"
"""The last version that lets a payment say which kinds of payment method it takes in a way the stand-in knows too. A
later one (2026-09-30.endive) takes `allowed_payment_method_types` instead and refuses this."""

# By default each request tells Stripe how long the one before it took.
stripe.enable_telemetry = False
