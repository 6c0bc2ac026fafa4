"""A proxy that ends TLS, as one stands in front of a server: `tls_front.py CERTIFICATE KEY ADDRESS:PORT`.

It listens on a free port of this machine, prints that, and hands every byte on. It serves until it is killed.
"""

import asyncio
import ssl
import sys

PIECE_BYTES = 1 << 16


async def _pump(reader, writer):
    try:
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass  # Either side may vanish; the other one is closed then.
    finally:
        writer.close()


async def _serve(certificate, key, target):
    host, port = target.rsplit(":", 1)

    async def connected(reader, writer):
        try:
            to_reader, to_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pump(reader, to_writer), _pump(to_reader, writer))

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    # What gRPC clients insist on.
    tls.set_alpn_protocols(["h2"])
    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
