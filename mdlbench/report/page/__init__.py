"""A suite's results as one self-contained web page, and an index over all suites.

The page holds its data, style and scripts; it needs no network and runs from a file. Records are
data to it: a content security policy names the page's own script as the only one that may run.
"""

from mdlbench.report.page.folders import write_pages
from mdlbench.report.page.write import index_page, suite_page

__all__ = ["index_page", "suite_page", "write_pages"]
