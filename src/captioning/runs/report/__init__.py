"""``report.html`` of a run and ``check.html`` of a data set, each in one file that opens offline."""
