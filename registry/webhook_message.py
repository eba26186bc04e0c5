"""One message to a webhook: signed as the Standard Webhooks specification (https://www.standardwebhooks.com) says."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from compute.errors import UriNotAllowed
from registry.egress import TIMEOUT, Unreachable, post
from registry.webhooks import Subscription


class Trial(BaseModel):
    """What came of one attempt to deliver."""

    model_config = ConfigDict(frozen=True)

    delivered: bool
    status: int | None = Field(None, description="Of the HTTP answer, if there was one.")
    reason: str | None = Field(None, description="Why it was not delivered.")
    retry_after: float | None = Field(None, description="Seconds that the receiver asked for.")


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of the header ``webhook-signature``.

    Examples
    --------
    >>> secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    >>> sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def send(
    webhook: Subscription,
    message_id: str,
    kind: str,
    at: datetime,
    data: dict[str, Any],
    hosts: tuple[str, ...],
    timeout: float = TIMEOUT,
) -> Trial:
    """Send one message once."""
    body = json.dumps({"type": kind, "timestamp": at.isoformat(), "data": data}, separators=(",", ":")).encode()
    now = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "tablework-webhooks",
        "webhook-id": message_id,
        "webhook-timestamp": str(now),
        "webhook-signature": sign(webhook.secret, message_id, now, body),
    }
    try:
        answer = post(webhook.url, body, headers, hosts, timeout)
    except (Unreachable, UriNotAllowed) as error:
        return Trial(delivered=False, reason=str(error))
    if 200 <= answer.status < 300:
        return Trial(delivered=True, status=answer.status)
    redirect = "; redirects are not followed" if 300 <= answer.status < 400 else ""
    return Trial(
        delivered=False,
        status=answer.status,
        reason=f"it answered {answer.status}{redirect}",
        retry_after=answer.retry_after,
    )
