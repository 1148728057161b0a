"""`make abuse`: goals that hold under abuse, measured with a real server: goal, figure, verdict."""
