"""The HTML template and styles of a report."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1>{lead}</header>
{body}
</main>
</body>
</html>
"""

# Pictures keep a light background in dark mode, because their axes need one.
STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6575;
  --ground: #f6f7f9; --card: #ffffff; --line: #dfe3ea; --accent: #2b5fd9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef;
  --soft: #a0a9b8; --ground: #12151b; --card: #1b2029; --line: #303846;
  --accent: #86a9ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
  sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem;
  letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 0 0 .75rem; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: 0 0 .75rem; max-width: 70ch; }
.lead { font-size: 1.1rem; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; padding: 1.25rem; margin: 1rem 0; }
.note { color: var(--soft); font-size: .9rem; margin: .6rem 0 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; min-width: 60%; font-size: .95rem; }
th, td { text-align: left; padding: .4rem .9rem .4rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }
pre { background: var(--ground); border: 1px solid var(--line); margin: 0;
  border-radius: 8px; padding: .75rem; overflow-x: auto; font-size: .85rem; }
figure { margin: 0; }
.images { display: flex; flex-wrap: wrap; gap: 1rem; }
.images img { flex: 1 1 320px; min-width: 0; }
img { max-width: 100%; height: auto; display: block; background: #fff;
  border-radius: 8px; }
.clip { border-top: 1px solid var(--line); padding: 1rem 0; }
.note + .clip { margin-top: .75rem; }
.clip .note { margin: .1rem 0 0; }
.clip img { margin-top: .5rem; width: 100%; }
.clip:last-child { padding-bottom: 0; }
.recordings { display: grid; gap: .75rem; margin-top: .6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 240px), 1fr)); }
.recordings figcaption { font-size: .85rem; color: var(--soft);
  margin-bottom: .2rem; }
audio { width: 100%; height: 40px; display: block; }
@media (prefers-color-scheme: dark) { img { filter: brightness(.88); } }
@media (max-width: 600px) { main { padding: 1.25rem .6rem 3rem; }
  section { padding: 1rem .8rem; border-radius: 10px; }
  h1 { font-size: 1.5rem; } }
"""
