"""An image API that answers with pictures painted beforehand: the server must not be what limits.

Speaks just enough HTTP/1.1 for images/generations on kept-alive connections, in its own process.

Run by bench_generate.py: python benchmarks/serve_pictures.py LATENCY_S PICTURE...
"""

import asyncio
import base64
import json
import sys
from pathlib import Path


class Canned(asyncio.Protocol):
    """Counts bytes of a request's body and answers after the latency."""

    replies: list[bytes]
    latency: float
    served = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._transport = transport
        self._data = b""

    def data_received(self, data: bytes) -> None:
        """Part of a request; requests on one connection follow one another."""
        self._data += data
        head, separator, body = self._data.partition(b"\r\n\r\n")
        if not separator:
            return
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        if len(body) >= length:
            self._data = body[length:]
            asyncio.get_running_loop().call_later(self.latency, self._answer)

    def _answer(self) -> None:
        reply = self.replies[Canned.served % len(self.replies)]
        Canned.served += 1
        self._transport.write(reply)


def reply(picture: bytes) -> bytes:
    """A whole response."""
    usage = {
        "input_tokens": 10,
        "output_tokens": 32,
        "total_tokens": 42,
        "input_tokens_details": {"text_tokens": 10, "image_tokens": 0},
    }
    document = {
        "created": 1767225600,
        "data": [{"b64_json": base64.b64encode(picture).decode()}],
        "usage": usage,
    }
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"x-request-id: req_1\r\n\r\n" + body


async def main() -> None:
    """Print the port and serve until killed."""
    Canned.latency = float(sys.argv[1])
    Canned.replies = [reply(Path(name).read_bytes()) for name in sys.argv[2:]]
    server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
