"""What people see: terminals, Markdown, and the name of what is being done."""
