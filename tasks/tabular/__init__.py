"""Behind the task `table`: reading a user's file, its columns, their encoding."""
