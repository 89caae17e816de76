"""Tables, figures and one HTML page from the results of finished runs."""

from .figures import write_figures
from .page import write_page
from .tables import cost_table, table, write_tables

__all__ = [
    "cost_table",
    "table",
    "write_figures",
    "write_page",
    "write_tables",
]
