"""The work of the tasks, and code that several of them share."""
