// What Gradio leaves to the page: drops that replace the image, titles of messages, results in view on a narrow window.
(() => {
  const hasFiles = event => event.dataTransfer && [...event.dataTransfer.types].includes('Files');
  const opener = () => document.querySelector('input[type=file][accept*=".tif"]');  // of the button "Open image"

  // A file dropped anywhere on the page is opened; the browser never leaves the page for it.
  const hover = event => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    document.body.classList.toggle('dropping', event.type !== 'dragleave' || event.relatedTarget !== null);
  };
  const drop = event => {
    document.body.classList.remove('dropping');
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.stopPropagation();
    const input = opener();
    if (!input || !event.dataTransfer.files.length) return;
    const chosen = new DataTransfer();
    chosen.items.add(event.dataTransfer.files[0]);
    input.files = chosen.files;
    input.dispatchEvent(new Event('change', {bubbles: true}));
  };
  for (const name of ['dragenter', 'dragover', 'dragleave']) window.addEventListener(name, hover, true);
  window.addEventListener('drop', drop, true);

  // "Title: sentence" becomes the title of the message; Gradio shows the kind of the message ("Error") whatever the title is.
  const TITLES = /^(Please check|Too large|Out of memory|Busy|Fault of the demo): /;
  const TOO_MANY_BYTES = /exceed the maximum allowed size/i;
  const titled = toast => {
    const texts = [...toast.querySelectorAll('.toast-message-text')];
    for (const text of texts) {
      if (TOO_MANY_BYTES.test(text.textContent) && !TITLES.test(text.textContent)) text.textContent = window.geoalignTooManyBytes;
      const found = TITLES.exec(text.textContent);
      if (!found) continue;
      text.dataset.title = found[1];
      text.textContent = text.textContent.slice(found[0].length);
    }
    const title = toast.querySelector('.toast-title');
    const named = texts.length ? texts[0].dataset.title : '';
    if (title && named && title.firstChild.data !== named + ' ') title.firstChild.data = named + ' ';
  };
  const watch = () => document.querySelectorAll('.toast-body').forEach(titled);
  new MutationObserver(watch).observe(document.documentElement, {childList: true, subtree: true, characterData: true});

  // Where the columns are stacked, Ground brings the results into view.
  window.geoalignShowResults = () => {
    const results = document.querySelector('#results');
    if (results && results.getBoundingClientRect().top > window.innerHeight * .6) results.scrollIntoView({behavior: 'smooth'});
  };
})();
