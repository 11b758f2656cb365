// How many columns show everyone largest. Pure: counts and pixels in, columns and tile size out.

export interface Grid {
  columns: number;
  /** Size of one tile, CSS pixels. */
  width: number;
  height: number;
}

/** Tiles have the shape of cameras, 16:9, or less where that fills the stage: down to 4:3, on a tall stage to a square. */
const WIDEST = 16 / 9;
const NARROWEST_WIDE_STAGE = 4 / 3;
const NARROWEST_TALL_STAGE = 1;
/** Below this width faces are lost: the stage scrolls instead. */
const SMALLEST_TILE = 132;

export function bestGrid(count: number, stageWidth: number, stageHeight: number, gap: number): Grid {
  let best: Grid = { columns: 1, width: 0, height: 0 };
  if (count < 1 || stageWidth <= 0 || stageHeight <= 0) return best;
  const narrowest = stageWidth > stageHeight ? NARROWEST_WIDE_STAGE : NARROWEST_TALL_STAGE;
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const cellWidth = (stageWidth - gap * (columns - 1)) / columns;
    const cellHeight = (stageHeight - gap * (rows - 1)) / rows;
    if (cellWidth <= 0 || cellHeight <= 0) continue;
    const width = Math.min(cellWidth, cellHeight * WIDEST);
    const height = Math.min(cellHeight, width / narrowest);
    if (width * height > best.width * best.height) best = { columns, width: Math.floor(width), height: Math.floor(height) };
  }
  if (best.width >= SMALLEST_TILE || best.width >= stageWidth - 1) return best;
  const columns = Math.max(1, Math.floor((stageWidth + gap) / (SMALLEST_TILE + gap)));
  const width = Math.floor((stageWidth - gap * (columns - 1)) / columns);
  return { columns, width, height: Math.floor(width / WIDEST) };
}
