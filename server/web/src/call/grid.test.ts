import { expect, it } from 'vitest';
import { bestGrid } from './grid';

it('puts two people beside each other on a wide stage and above each other on a tall one', () => {
  expect(bestGrid(2, 1200, 600, 12).columns).toBe(2);
  expect(bestGrid(2, 360, 640, 8).columns).toBe(1);
});

it('never overflows the stage and never stretches a tile', () => {
  for (let count = 1; count <= 25; count++) {
    const { columns, width, height } = bestGrid(count, 1280, 720, 12);
    const rows = Math.ceil(count / columns);
    expect(columns * width + (columns - 1) * 12).toBeLessThanOrEqual(1280);
    expect(rows * height + (rows - 1) * 12).toBeLessThanOrEqual(720);
    expect(width / height).toBeGreaterThanOrEqual(1.3);
    expect(width / height).toBeLessThanOrEqual(1.8);
  }
});

it('scrolls rather than show tiles too small to see', () => {
  expect(bestGrid(40, 360, 500, 8)).toEqual({ columns: 2, width: 176, height: 99 });
});

it('survives an empty stage', () => {
  expect(bestGrid(0, 100, 100, 8).width).toBe(0);
  expect(bestGrid(3, 0, 0, 8).width).toBe(0);
});
