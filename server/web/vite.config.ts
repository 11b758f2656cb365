// Builds the page into the folder that the server embeds. The folder lies outside the checkout:
// AURALINK_WEB_DIST, or web-dist in AURALINK_CACHE (~/.cache/auralink). `npm run dev` serves the page with hot reload and
// passes API and signalling on to a running server (AURALINK_DEV_SERVER, default http://127.0.0.1:7880).

import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import react from '@vitejs/plugin-react';
import { defineConfig } from 'vitest/config';

const cache = process.env.AURALINK_CACHE || join(process.env.HOME || homedir(), '.cache', 'auralink');
const outDir = process.env.AURALINK_WEB_DIST || join(cache, 'web-dist');
const server = process.env.AURALINK_DEV_SERVER || 'http://127.0.0.1:7880';

export default defineConfig({
  plugins: [react()],
  cacheDir: join(cache, 'vite'),
  build: {
    outDir,
    // Only a folder that holds an earlier build is emptied: a slip in the variable must not cost anyone files.
    emptyOutDir: existsSync(join(outDir, 'index.html')),
    // livekit-client is most of the page and is needed at once: splitting it would only add a round trip.
    chunkSizeWarningLimit: 900,
    // A content security policy of `default-src 'self'` allows no data: URLs in styles or scripts.
    assetsInlineLimit: 0,
    // light-dark() and container queries stay as they are written; every browser since May 2024 has both.
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
    rollupOptions: {
      output: {
        // Media and interface libraries change seldom: files of their own stay in the browser's cache.
        manualChunks: (id: string) => (id.includes('node_modules') ? 'vendor' : undefined),
      },
    },
  },
  server: {
    proxy: {
      '/api': server,
      '/rtc': { target: server, ws: true },
    },
  },
  // The time-out is for a hung test, not for a busy machine.
  test: { include: ['src/**/*.test.ts'], environment: 'node', testTimeout: 120_000 },
});
