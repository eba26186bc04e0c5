"""JSON as it leaves: strict, without NaN and Infinity.

It is written by pydantic's own serialiser, which is several times faster than the standard library's.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json
from starlette.responses import Response


class JSONResponse(Response):
    r"""A JSON body; NaN and infinities become null, which every JSON reader takes.

    Examples
    --------
    >>> JSONResponse({"metric": float("nan"), "name": "µ"}).body
    b'{"metric":null,"name":"\xc2\xb5"}'
    """

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the content as JSON."""
        return to_json(content, inf_nan_mode="null")
