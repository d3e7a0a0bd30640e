import { svelte } from '@sveltejs/vite-plugin-svelte';
import { svelteTesting } from '@testing-library/svelte/vite';
import { defineConfig } from 'vitest/config';

/** The coordinator that `npm run dev` shows. */
const coordinator = process.env.CAISSON_COORDINATOR ?? 'http://127.0.0.1:3000';

export default defineConfig({
  plugins: [svelte(), svelteTesting()],
  build: {
    outDir: 'dist/site',
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: 'es2023',
  },
  server: {
    proxy: {
      '/api': {
        target: coordinator,
        changeOrigin: true,
        ws: true,
        // The coordinator takes changes from its own pages alone, and during development this is one of them.
        configure: (proxy) => {
          proxy.on('proxyReq', (request) => request.setHeader('origin', coordinator));
          proxy.on('proxyReqWs', (request) => request.setHeader('origin', coordinator));
        },
      },
    },
  },
  test: {
    environment: 'jsdom',
    include: ['src/**/*.test.ts', 'tests/**/*.test.ts'],
    setupFiles: ['tests/setup.ts'],
    restoreMocks: true,
  },
});
