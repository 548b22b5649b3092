"""What the lessons stand on: the list of exercises, their checks, what you have written, and what is still borrowed.

A notebook begins with `from course import begin, check, show_solution`. `check(function)` compares what you wrote with
what is expected, and keeps it in `lessons/mine/` when it is right. `from course.mine import conv2d` then gives your own
function in every later lesson, and the library's where you have none yet.
"""

from course.checking import check, open_library, show_solution
from course.drawing import begin

__all__ = ["begin", "check", "open_library", "show_solution"]
