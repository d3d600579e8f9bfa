"""A server process: a port, the runs behind it, and uvicorn, which drains on SIGTERM."""

import errno
import os
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

from seqgen.core.errors import ConfigError, MissingExtraError, RunError
from seqgen.serve.limits import Limits

TOKEN = "SEQGEN_TOKEN"
"""The environment variable that holds the token."""


def serve(
    runs: Sequence[Path],
    *,
    host: str,
    port: int,
    token: str,
    limits: Limits,
    step: int | None,
    device: str,
    module: Path | None,
    ready: Callable[[str, list[str]], None],
) -> None:
    """Serve runs by the names of their folders until SIGINT or SIGTERM; `ready` gets the address and the names.

    The port is taken before runs are loaded. Raises ConfigError for an address that cannot be had or that is public
    without a token, RunError for runs of one name or that cannot be loaded, MissingExtraError.
    """
    try:
        import uvicorn

        from seqgen.serve.app import Service
    except ImportError:
        raise MissingExtraError(
            "serving needs starlette and uvicorn; run: pip install 'neural-seqgen[serve]'"
        ) from None
    from seqgen.engine import run as settings_of
    from seqgen.engine.loading import load, load_image_generator
    from seqgen.models import masked
    from seqgen.serve.filling import FillingModel
    from seqgen.serve.images import ImageModel
    from seqgen.serve.texts import Model

    token = token or os.environ.get(TOKEN, "")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError("the token must be printable ASCII without spaces, because it travels in a header")
    names: dict[str, Path] = {}
    for run in runs:
        name = run.resolve().name
        if name in names:
            raise RunError(f"{names[name]} and {run} have the same name {name}, by which clients choose; rename one")
        names[name] = run
    with _bound(host, port, public=bool(token)) as listener:
        models: list[Model | ImageModel | FillingModel] = []
        for name, run in names.items():
            if settings_of.read_settings(run, module=module).tokenizer is None:
                made = load_image_generator(run, step=step, device=device, module=module)
                models.append(ImageModel(name, made, int(run.stat().st_mtime)))
            else:
                opened = load(run, step=step, device=device, module=module)
                kind = FillingModel if isinstance(opened.model, masked.Model) else Model
                models.append(kind(name, opened, limits, int(run.stat().st_mtime)))
        app = Service(models, limits, token).app()
        settings = uvicorn.Config(
            app,
            log_level="warning",
            lifespan="on",
            server_header=False,
            timeout_graceful_shutdown=int(limits.seconds) + 1,
            ws="none",
        )
        listener.listen()  # who reads the line below may connect at once
        place, number = listener.getsockname()[:2]
        ready(f"http://{f'[{place}]' if ':' in place else place}:{number}", list(names))
        uvicorn.Server(settings).run(sockets=[listener])


def _bound(host: str, port: int, *, public: bool) -> socket.socket:
    """Return a socket bound to an address; ConfigError where that cannot be, or others could reach it unasked."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise ConfigError(f"--host must be an address of this machine, got {host!r}") from None
    if not public and not ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise ConfigError(
            f"--host {host} can be reached from other machines: give a --token, or set {TOKEN}, that clients must send"
        )
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
    except OSError as error:
        made.close()
        why = "is in use; choose another with --port" if error.errno == errno.EADDRINUSE else f"({error.strerror})"
        raise ConfigError(f"port {port} of {host} {why}") from None
    return made
