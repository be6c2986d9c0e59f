"""uvicorn's HTTP, for clients that may be silent."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 10  # for the header of a request, from the connection or from the last answer


class PromptProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose client does not send a whole header in time.

    uvicorn alone waits for ever: for the first byte, and for the rest of a header.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._expect_request(None)

    def on_response_complete(self) -> None:
        """Wait for the next request, which may be there already."""
        answered = self.cycle
        super().on_response_complete()
        self._expect_request(answered)

    def _expect_request(self, last: Any) -> None:
        def close() -> None:
            if self.cycle is last:
                self.transport.close()

        self.loop.call_later(SECONDS, close)
