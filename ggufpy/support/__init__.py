"""What every room may use and that knows no model: checks of arguments, the console, progress, folders, threads."""
