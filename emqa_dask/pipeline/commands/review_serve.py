"""emqa review serve: a page on which people check images."""

from collections.abc import Callable

from emqa_dask.pipeline.workspace.review_desk import ReviewDesk
from emqa_dask.review.server import ReviewServer
from emqa_dask.settings import Settings, SettingsError
from emqa_dask.store import files, marker
from emqa_dask.store.layout import Workspace

Say = Callable[[str], None]
MAX_PORT = 65535


def serve_review(root: str, settings: Settings, *, port: int = 0, reviewer: str = "", say: Say = print) -> int:
    """Exit code 0, after Ctrl-C. Serves the page of the review on this machine; its address has a random token.

    The images are those of the plan, or without one those with the verdict review. `port` 0: any free one. Raises
    ValueError without verdicts, and OSError for a port that is in use.
    """
    marker.read_source(root)
    if not 0 <= port <= MAX_PORT:
        raise SettingsError(f"--port {port}: ports are from 1 to {MAX_PORT}")
    workspace = Workspace(root)
    desk = ReviewDesk(workspace, settings, reviewer)
    source = "the plan" if files.exists(workspace.review_plan) else "the verdict review; `emqa review plan` draws some"
    say(f"{len(desk):,} images of {source}")
    with ReviewServer(port, desk.reads, desk.writes) as server:
        say(f"open {server.url}")
        say("the address is for this machine and session; Ctrl-C ends the review, decisions are stored at once")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("the review has ended")
    return 0
