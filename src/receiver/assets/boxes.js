"use strict";
// Shows every two seconds what the boxes said last; the place on the page stays.
(() => {
  const trouble = document.getElementById("trouble");
  const again = async () => {
    try {
      const answer = await fetch("/boxes", { cache: "no-store", signal: AbortSignal.timeout(5000) });
      if (!answer.ok) throw new Error(answer.status);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      document.getElementById("boxes").replaceWith(page.getElementById("boxes"));
      trouble.hidden = true;
    } catch { trouble.hidden = false; }
    setTimeout(again, 2000);
  };
  setTimeout(again, 2000);
})();
