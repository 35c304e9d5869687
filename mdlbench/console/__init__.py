"""What people see: terminals, Markdown, how figures look, and the name of what is being done."""
