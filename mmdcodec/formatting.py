"""Numbers as people read them."""


def duration(seconds: float) -> str:
  """`1 h 02 min`, `3 min 05 s`, `12 s`, `4.25 s`."""
  if seconds < 10:
    return f"{seconds:.2f} s"
  seconds = int(round(seconds))
  hours, minutes = seconds // 3600, seconds // 60 % 60
  if hours:
    return f"{hours} h {minutes:02d} min"
  if minutes:
    return f"{minutes} min {seconds % 60:02d} s"
  return f"{seconds} s"


def count(number: int, one: str, many: str) -> str:
  """`1 chunk is`, `2 chunks are`."""
  return f"{number} {one if number == 1 else many}"
