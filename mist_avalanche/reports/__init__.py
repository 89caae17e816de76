"""What finished runs are looked at with: tables, figures, pages. Nothing here needs a model."""

from .page import write_page
from .pictures import write_figures
from .tables import cost_table, table, write_tables

__all__ = ["cost_table", "table", "write_figures", "write_page", "write_tables"]
