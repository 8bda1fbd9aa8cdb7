"""The report's style sheet: system fonts, light and dark, print. Kept as Python so that every installation has it."""

CSS = """
:root { color-scheme: light dark; --ink: #1a1b1c; --soft: #5b6067; --page: #ffffff; --card: #f5f6f8; --line: #d5d8dd;
  --grid: #dfe1e5;
  --good: #006b4f; --bad: #b3261e; --accent: #0072B2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7e9; --soft: #a5abb3; --page: #15171a; --card: #1e2125;
  --line: #3a3f46; --grid: #33373d;
  --good: #4cc9a0; --bad: #ff8a80; --accent: #6db8e8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p { max-width: 46rem; } ul { max-width: 62rem; } p, ul { margin: .5rem 0; }
.soft, figcaption, caption { color: var(--soft); font-size: .9rem; }
.verdict { background: var(--card); border-left: 5px solid var(--accent); border-radius: 4px; padding: 1rem 1.2rem;
  font-size: 1.15rem; margin: 1.2rem 0; max-width: none; }
.banner { background: #b3261e; color: #fff; border-radius: 4px; padding: .8rem 1.2rem; font-weight: 600; max-width: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .6rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; caption-side: top; padding-bottom: .3rem; }
th, td { padding: .3rem .75rem; border-bottom: 1px solid var(--line); vertical-align: top; text-align: left;
  white-space: nowrap; }
tbody th { white-space: normal; min-width: 8rem; font-weight: 600; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; white-space: normal; }
.n { text-align: right; }
.wrap td, .results td:last-child { white-space: normal; } .results td:last-child { min-width: 11rem; }
a { color: var(--accent); }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.arm { white-space: nowrap; } .swatch { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .45em; }
figure { margin: 1rem 0; } figure svg { display: block; width: 100%; height: auto; min-width: 34rem; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif !important; }
pre { background: var(--card); border-radius: 4px; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
dl { display: grid; grid-template-columns: minmax(9rem, 14rem) 1fr; gap: .35rem 1.2rem; } dt { font-weight: 600;
  } dd { margin: 0; }
details > summary { cursor: pointer; color: var(--soft); margin: .6rem 0; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
@media print { :root { --ink: #000; --soft: #444; --page: #fff; --card: #f3f3f3; --line: #bbb; --grid: #ddd; --good: #005a41;
  --bad: #9c1c15; }
  main { max-width: none; padding: 0; } body { font-size: 10.5pt; } h2 { break-after: avoid;
  } figure, tr, .verdict { break-inside: avoid; }
  .scroll { overflow: visible; } .banner { background: none; color: var(--bad); border: 2px solid var(--bad);
  } figure svg { min-width: 0; } }
"""
