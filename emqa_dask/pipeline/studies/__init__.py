"""Studies on own data: experiments of the papers, with tables, figures and a page."""
