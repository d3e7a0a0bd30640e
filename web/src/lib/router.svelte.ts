/** Where we are: the address bar as state. Links are ordinary links; those to our own pages load nothing. */
import { getContext, setContext } from 'svelte';
import { match, type Page } from './routes';

export class Router {
  url = $state.raw(new URL(location.href));
  readonly page: Page = $derived(match(this.url.pathname));

  /** Listens to links and to the browser's buttons, until the function it gives is called. */
  start(): () => void {
    const follow = (event: MouseEvent) => {
      const link = (event.target as Element).closest?.('a[href]');
      if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
      if (!(link instanceof HTMLAnchorElement) || link.target || link.hasAttribute('download')) return;
      const url = new URL(link.href);
      if (url.origin !== location.origin || url.pathname.startsWith('/api/')) return;
      event.preventDefault();
      this.go(url.pathname + url.search + url.hash);
    };
    const back = () => (this.url = new URL(location.href));
    document.addEventListener('click', follow);
    window.addEventListener('popstate', back);
    return () => {
      document.removeEventListener('click', follow);
      window.removeEventListener('popstate', back);
    };
  }

  go(address: string, { replace = false } = {}): void {
    const before = this.url.pathname;
    if (replace) history.replaceState(null, '', address);
    else history.pushState(null, '', address);
    this.url = new URL(location.href);
    if (this.url.pathname !== before) scrollTo(0, 0);
  }
}

const key = Symbol('router');
export const provideRouter = (router: Router): Router => setContext(key, router);
export const useRouter = (): Router => getContext<Router>(key);
