"use strict";
// Attaches HLS to the page's native players, keeps the second in step with the first, and says in
// words what goes wrong. hls.js is used where it can be, so that every browser behaves the same.
(() => {
  const main = document.getElementById("main");
  const second = document.getElementById("second");
  const trouble = document.getElementById("trouble");
  const say = (text) => { trouble.textContent = text; trouble.hidden = !text; };

  function attach(video) {
    const source = video.dataset.src;
    if (window.Hls && Hls.isSupported()) {
      // The worker would need a wider content security policy and saves nothing at this bit rate.
      const hls = new Hls({ enableWorker: false, liveDurationInfinity: true, backBufferLength: 60 });
      let wait = null;
      const load = () => { wait = null; hls.loadSource(source); };
      hls.on(Hls.Events.MANIFEST_PARSED, () => say(""));
      hls.on(Hls.Events.ERROR, (_, data) => {
        if (!data.fatal) return;
        if (data.type === Hls.ErrorTypes.MEDIA_ERROR) { hls.recoverMediaError(); return; }
        say(data.response && data.response.code === 404
          ? "Nothing to show yet; the player starts by itself."
          : "The receiver cannot be reached; trying again.");
        if (!wait) wait = setTimeout(load, 2000);
      });
      hls.attachMedia(video);
      load();
    } else if (video.canPlayType("application/vnd.apple.mpegurl")) {
      video.src = source;
    } else {
      say("This browser cannot play the recording here; use the links below.");
    }
  }

  attach(main);
  if (second) {
    attach(second);
    const follow = () => {
      if (Math.abs(second.currentTime - main.currentTime) > 0.15) second.currentTime = main.currentTime;
    };
    main.addEventListener("play", () => { follow(); second.play().catch(() => {}); });
    main.addEventListener("pause", () => { second.pause(); follow(); });
    main.addEventListener("seeked", follow);
    main.addEventListener("ratechange", () => { second.playbackRate = main.playbackRate; });
    main.addEventListener("timeupdate", follow);
  }

  // The state in words follows the recording while it runs.
  const state = document.getElementById("state");
  const timer = setInterval(async () => {
    if (state.classList.contains("complete")) { clearInterval(timer); return; }
    try {
      const answer = await fetch(location.pathname + "/state", { cache: "no-store" });
      const now = await answer.json();
      if (!state.classList.contains(now.class)) {
        state.className = "state " + now.class;
        state.textContent = now.text;
      }
    } catch { /* The player says that the receiver is away. */ }
  }, 3000);
})();
