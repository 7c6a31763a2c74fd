"""Attacks use the contract's service: real processes on servers of their own."""

from __future__ import annotations

from tests.contract.conftest import browser, pair, serve
from tests.payments.conftest import stripe_url

__all__ = ["browser", "pair", "serve", "stripe_url"]
