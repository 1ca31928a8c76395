"""Progress lines of notebooks. `cxr study` shows the last one of each notebook that it runs."""


def progress(message: str) -> None:
    """Print a line of progress, with the mark by which `cxr study` and the report recognise it."""
    print(f"» {message}", flush=True)
