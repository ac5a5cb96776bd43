// Chromium for the tests: one browser a file, a fresh profile a page.
import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';

export const chromium_path = process.env.FATHOM_CHROMIUM ?? '/usr/bin/chromium';

export async function launch() {
  if (!existsSync(chromium_path)) throw new Error(`${chromium_path} does not exist: install chromium`);
  return chromium.launch({
    executablePath: chromium_path,
    headless: true,
    // Nothing but the page's own requests leaves the browser.
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync',
    ],
  });
}
