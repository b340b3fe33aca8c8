"""The report: runs as one HTML file that opens from disk and needs no network.

Run --collect--> plain numbers --figures, bars--> Plotly figures --page--> HTML (`templates/` holds its parts)
"""

from miclab.report.run.page import write_report

__all__ = ["write_report"]
