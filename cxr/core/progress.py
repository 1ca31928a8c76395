"""Progress lines: the study runner shows the last one of each notebook that it runs."""


def progress(message: str) -> None:
    """One line of progress, with the mark by which `cxr study` and the report know it."""
    print(f"» {message}", flush=True)
