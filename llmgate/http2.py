"""HTTP/2 as hypercorn speaks it, less a crash."""

from __future__ import annotations

import h2.events
import hypercorn.protocol
from hypercorn.protocol.h2 import H2Protocol


class Http2(H2Protocol):
    """A body that still comes in after its answer was sent ended the connection, and with it whatever else was served
    on it. hypercorn's `_handle_events` and `streams` are not public: 0.17 and 0.18 have them.
    """

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            else:
                await super()._handle_events([event])
        await self._flush()


def mend() -> None:
    """Have hypercorn use ours."""
    hypercorn.protocol.H2Protocol = Http2  # type: ignore[attr-defined]
