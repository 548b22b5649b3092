"""Whether this Python can start threads: in a browser (Pyodide) it cannot, and does everything in turn."""

import functools
import threading


@functools.cache
def can_start_threads() -> bool:
    """Found by starting one."""
    thread = threading.Thread(target=int)
    try:
        thread.start()
    except RuntimeError:  # "can't start new thread"
        return False
    thread.join()
    return True
