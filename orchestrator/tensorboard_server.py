"""TensorBoard, opened on a view of some runs; the view follows them while it is open."""

from __future__ import annotations

import errno
import signal
import socket
import tempfile
import time
import webbrowser
from pathlib import Path

from distill.loading import ConfigError, load_experiment, shipped_experiments
from distill.storage import runs_folder
from orchestrator.tensorboard_folder import EventsView, find_events

REFRESH_S = 5  # TensorBoard's own interval


def folder_to_open(target: str | None) -> Path:
    """Where the runs are that are asked for: a folder, an experiment's name or file, or ``runs``.

    Raises ConfigError where there are none.
    """
    hint = "train something first, as with: tutelage train demo"
    if target is None:
        folder = runs_folder()
    elif Path(target).is_dir():
        folder, hint = Path(target), "give the output.root of an experiment, or a folder below it"
    elif target in shipped_experiments() or Path(target).is_file():
        experiment = load_experiment(target)
        folder = experiment.output.root / experiment.name
        hint = f"train it first: tutelage train {target}"
    else:
        raise ConfigError(
            f"board: '{target}' is no folder, no YAML file and no shipped experiment; give a "
            f"folder of runs, or one of {', '.join(shipped_experiments())}"
        )
    if not folder.is_dir():
        raise ConfigError(f"board: no folder '{folder}'; {hint}")
    found = find_events(folder)
    if not found.runs and not found.events:
        raise ConfigError(f"board: no run lies below '{folder}'; {hint}")
    return folder


def serve(root: Path, *, host: str, port: int | None, opens: bool) -> None:
    """Show the runs below ``root`` until Ctrl-C; without a ``port``, at the first free one.

    Prints the address, and ``opens`` it in the user's browser. Raises ConfigError where it cannot
    be had.
    """
    if port is not None and not 0 <= port < 1 << 16:
        raise ConfigError(f"--port: {port} is no port; give one from 1024 to 65535")
    _check_address(host, port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the view is deleted then, too
    with tempfile.TemporaryDirectory(prefix="tutelage-board-") as name:
        folder = Path(name)
        view = EventsView(root, folder)
        try:
            num_runs = len(view.refresh())
            url = start(folder, host=host, port=port, title=f"{root} – tutelage")
            print(f"runs:         {num_runs} in {root}/", flush=True)
            print(f"TensorBoard:  {url} (Ctrl-C ends it)", flush=True)
            if opens:
                webbrowser.open(url)
            while True:
                time.sleep(REFRESH_S)
                view.refresh()
        except KeyboardInterrupt:
            print()


def start(folder: Path, *, host: str, port: int | None, title: str, is_fast: bool = True) -> str:
    """Serve TensorBoard from a thread of this process; returns its address.

    ``is_fast`` reads events in a process of its own, where TensorBoard has a data server for the
    platform. Raises ConfigError where TensorBoard finds no port.
    """
    from tensorboard import program

    board = program.TensorBoard()
    board.configure(
        logdir=str(folder),
        host=host,
        port=port,
        window_title=title,
        reload_interval=REFRESH_S,
        load_fast=str(is_fast).lower(),
    )
    try:
        return board.launch()
    except SystemExit:  # the data server did not start; TensorBoard has said why
        if not is_fast:
            raise
        return start(folder, host=host, port=port, title=title, is_fast=False)
    except program.TensorBoardServerException as error:
        raise ConfigError(f"--port: {error.msg}; give another") from None


def _check_address(host: str, port: int | None) -> None:
    """Bind it once: TensorBoard's server prints the error and leaves the program."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except socket.gaierror as error:
        raise ConfigError(f"--host: no host '{host}' ({error.strerror}); give localhost") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"--port: {port} is taken; give another, or leave it out to have a free one found"
            ) from None
        told = host if port is None else f"{host}:{port}"
        raise ConfigError(
            f"--host: cannot listen at {told} ({error.strerror}); give localhost, and a port "
            "above 1023"
        ) from None
