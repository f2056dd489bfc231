"""The style of a report's page: light or dark as the reader's system is, narrow screens too."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1c2330; --soft: #667085; --line: #e4e7ec;
  --a: #3867d6; --b: #e08a1e; --c: #209b74; --bad: #c2453d; --track: #eef1f5;
  --inner: 58% 47%; --outer: 62% 86%; --outer-ink: #263042;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151b; --card: #1b2029; --ink: #e6e9ef; --soft: #98a2b3; --line: #2c3340;
    --a: #7ea2f5; --b: #f0b35c; --c: #5cc9a3; --bad: #ec8079; --track: #262d38;
    --inner: 45% 42%; --outer: 30% 27%; --outer-ink: #e6e9ef;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", "PingFang SC", "Microsoft YaHei",
    "Noto Sans CJK SC", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 20px; }
h2 { font-size: 19px; margin: 40px 0 12px; }
h3 { font-size: 14px; margin: 0 0 10px; font-weight: 600; }
.note { color: var(--soft); font-size: 13px; margin: 8px 0 0; }
.grid2 { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 430px), 1fr)); gap: 16px; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px;
  min-width: 0;
}
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 12px; }
.whole { grid-column: 1 / -1; }
.columns .bars { columns: 2 330px; column-gap: 36px; }
.columns .bar { break-inside: avoid; }
.tile { padding: 12px 14px; }
.tile b { display: block; font-size: 24px; line-height: 1.2; font-weight: 650; }
.tile span { color: var(--soft); font-size: 13px; }
.bar {
  display: grid; grid-template-columns: minmax(72px, 9em) 1fr 4.6em 3.6em; gap: 8px;
  align-items: center; font-size: 13px; padding: 2px 0;
}
.bar .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.wide .bar { grid-template-columns: minmax(110px, 17em) 1fr 4.6em 3.6em; }
.bar .track { background: var(--track); border-radius: 4px; height: 14px; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--a); border-radius: 4px; min-width: 1px; }
.bars.hues i { background: hsl(var(--h) var(--inner)); }
.rejected .bar i { background: var(--bad); }
.bar .number, .bar .share { text-align: right; font-variant-numeric: tabular-nums; }
.bar .share { color: var(--soft); }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--soft); }
.grid { stroke: var(--line); stroke-width: 1; }
.tick.y { text-anchor: end; }
.tick.x, .axis { text-anchor: middle; }
.column { fill: var(--a); }
.column:hover, .inner:hover, .outer:hover { opacity: 0.75; }
.mark { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg .mark-name { fill: var(--bad); }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.curve.a { stroke: var(--a); } .curve.b { stroke: var(--b); } .curve.c { stroke: var(--c); }
.dot.a { fill: var(--a); } .dot.b { fill: var(--b); } .dot.c { fill: var(--c); }
.dot.small { fill-opacity: 0; } .dot.small:hover { fill-opacity: 1; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13px; color: var(--soft); }
.key i { display: inline-block; width: 14px; height: 3px; margin-right: 6px; vertical-align: middle; }
.key i.a { background: var(--a); } .key i.b { background: var(--b); } .key i.c { background: var(--c); }
.sunburst { max-width: 470px; margin: 0 auto; }
.inner { fill: hsl(var(--h) var(--inner)); stroke: var(--card); stroke-width: 1; }
.outer { fill: hsl(var(--h) var(--outer)); stroke: var(--card); stroke-width: 1; }
.sunburst text { text-anchor: middle; dominant-baseline: central; pointer-events: none; font-size: 9.5px; }
svg .outer.rest, .rest { opacity: 0.45; }
svg .inner-name { fill: #fff; }
svg .outer-name { fill: var(--outer-ink); }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
td { border-bottom: 1px solid var(--line); padding: 5px 8px 5px 0; vertical-align: top; overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
td:first-child { color: var(--soft); width: 14em; }
.row { margin-bottom: 12px; }
.row header { font-size: 12px; color: var(--soft); display: flex; gap: 12px; margin-bottom: 6px; }
.row dl { margin: 0; display: grid; grid-template-columns: 6.5em 1fr; gap: 4px 12px; font-size: 14px; }
.row dt { color: var(--soft); font-size: 12px; padding-top: 2px; }
.row dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 15em; overflow-y: auto; }
.tag { border: 1px solid var(--line); border-radius: 99px; padding: 0 8px; color: var(--ink); }
@media (max-width: 600px) { .row dl { grid-template-columns: 1fr; gap: 0 0; } .row dd { margin-bottom: 8px; } }
@media print { body { background: none; } .card { break-inside: avoid; } .row dd { max-height: none; } }
"""  # noqa: E501
