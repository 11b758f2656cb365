// Markdown tables of a comparison: node table.mjs RESULTS.jsonl [NAME_OF_A NAME_OF_B]. RESULTS holds lkbench's JSON lines,
// one a run, labelled a and b, in the order of the runs.

import { readFile } from 'node:fs/promises';

const [file, nameA = 'A', nameB = 'B'] = process.argv.slice(2);
const runs = (await readFile(file, 'utf8')).trim().split('\n').filter(Boolean).map((line) => JSON.parse(line));

const latency = (name, key) => [50, 99].map((p) => [`${name} p${p}, ms`, (run) => (run[key]?.n ? run[key][`p${p}`] : NaN)]);
const figures = [
  ['server / generator CPU', (run) => (run.server?.user_s + run.server?.sys_s) / run.generator_cpu_s],
  ['server CPU per packet, us', (run) => run.server?.cpu_us_per_packet],
  ['packets received, 1/s', (run) => run.packets_per_s],
  ['loss, %', (run) => run.loss_pct],
  ['not forwarded, %', (run) => run.not_forwarded_pct],
  ['tracks silent or missing', (run) => run.tracks_silent + run.tracks_missing],
  ['failed joins', (run) => run.join_errors],
  ...latency('audio packet', 'audio_ms'),
  ...latency('last packet of a frame', 'video_last_ms'),
  ...latency('join', 'join_ms').slice(0, 1),
  ...latency('join to first media', 'first_media_ms').slice(0, 1),
  ...latency('join to first key frame', 'first_keyframe_ms').slice(0, 1),
  ['server CPU per join, ms', (run) => run.join_server_cpu_ms],
  ['RSS per participant, MB', (run) => run.server?.rss_per_participant_mb],
  ['machine idle, %', (run) => run.idle_pct],
];

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};
const number = (value) => (Math.abs(value) >= 1000 ? value.toFixed(0) : Number(value.toPrecision(3)).toString());
const ratio = (a, b) => (a === b ? 1 : b / a);

for (const shape of [...new Set(runs.map((run) => run.shape.name))]) {
  const of = (label) => runs.filter((run) => run.shape.name === shape && run.label === label);
  const [as, bs] = [of('a'), of('b')];
  const pairs = Math.min(as.length, bs.length);
  console.log(`\n### ${shape}; pairs of runs: ${pairs}, measured for ${number(median(runs.map((run) => run.window_s)))} s\n`);
  if (pairs === 0) {
    console.log('No pair of runs came through: see the servers\' logs.');
    continue;
  }
  console.log(`| | ${nameA} (A) | ${nameB} (B) | B / A: median (min to max) |\n|---|---|---|---|`);
  for (const [name, of] of figures) {
    const both = as.slice(0, pairs).map((run, i) => [of(run), of(bs[i])]).filter(([a, b]) => Number.isFinite(a) && Number.isFinite(b));
    if (both.length === 0) continue;
    const ratios = both.map(([a, b]) => ratio(a, b));
    const finite = ratios.every(Number.isFinite);
    const range = finite ? `${number(median(ratios))} (${number(Math.min(...ratios))} to ${number(Math.max(...ratios))})` : '-';
    console.log(`| ${name} | ${number(median(both.map(([a]) => a)))} | ${number(median(both.map(([, b]) => b)))} | ${range} |`);
  }
}
