/** The title and the icon of the tab, which show the state while one works elsewhere. */
import type { Tone } from './builds/status';

const COLOURS: Record<Tone, string> = { good: '#1a8a4c', bad: '#d0354b', warn: '#b87400', busy: '#12808c', idle: '#7b878e' };

function icon(tone: Tone | null): string {
  const badge = tone ? `<circle cx="24.500" cy="24.500" r="7.500" fill="${COLOURS[tone]}" stroke="#fff" stroke-width="2"/>` : '';
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#0e2a2f"/><rect x="8" y="6" width="16" height="19" rx="4" fill="none" stroke="#e9f3f4" stroke-width="2.200"/><path d="M4 18c3 0 3-2 6-2s3 2 6 2 3-2 6-2 3 2 6 2" fill="none" stroke="#55c2cc" stroke-width="2.600" stroke-linecap="round"/>${badge}</svg>`;
  return `data:image/svg+xml,${encodeURIComponent(svg)}`;
}

/** Keeps the tab's title and icon as `look` says, as long as the component lives. */
export function useTitle(look: () => { title: string; tone?: Tone | null }): void {
  $effect(() => {
    const { title, tone = null } = look();
    document.title = title ? `${title} · Caisson` : 'Caisson';
    document.querySelector('link[rel=icon]')?.setAttribute('href', icon(tone));
  });
}
