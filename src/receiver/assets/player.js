"use strict";
// Attaches HLS to the page's native players, keeps the second in step with the first, and says in
// words what goes wrong. hls.js is used where it can be, so that every browser behaves the same.
(() => {
  const main = document.getElementById("main");
  const second = document.getElementById("second");
  const trouble = document.getElementById("trouble");
  const say = (text) => { trouble.textContent = text; trouble.hidden = !text; };

  function attach(player) {
    const source = player.dataset.src;
    if (window.Hls && Hls.isSupported()) {
      // The worker would need a wider content security policy and saves nothing at this bit rate.
      const hls = new Hls({ enableWorker: false, liveDurationInfinity: true, backBufferLength: 60 });
      let known = false, wait = null;
      // What is loaded stays: a player that lost the receiver goes on where it is.
      const again = () => { wait = null; if (known) hls.startLoad(); else hls.loadSource(source); };
      hls.on(Hls.Events.LEVEL_LOADED, () => { known = true; say(""); });
      hls.on(Hls.Events.ERROR, (_, data) => {
        if (!data.fatal) return;
        if (data.type === Hls.ErrorTypes.MEDIA_ERROR) { hls.recoverMediaError(); return; }
        say(data.response && data.response.code === 404
          ? "Nothing to show yet; the player is ready as soon as there is."
          : "The receiver cannot be reached; trying again.");
        if (!wait) wait = setTimeout(again, 2000);
      });
      hls.attachMedia(player);
      again();
    } else if (player.canPlayType("application/vnd.apple.mpegurl")) {
      player.src = source;
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

  // The words and links of the page follow the recording while it runs.
  const state = document.getElementById("state");
  const timer = setInterval(async () => {
    if (state.classList.contains("complete")) { clearInterval(timer); return; }
    try {
      const answer = await fetch(location.pathname + "/state", { cache: "no-store" });
      if (!answer.ok) return;
      const now = await answer.json();
      if (now.tracks !== state.dataset.tracks) {
        // Other tracks need other players; whoever is watching already chooses the moment.
        if (main.currentTime === 0) location.reload();
        else say("The recording has another track now; reload the page to see it.");
        return;
      }
      document.getElementById("length").textContent = now.length;
      if (!state.classList.contains(now.class)) {
        state.className = "state " + now.class;
        state.textContent = now.text;
      }
      const complete = now.class === "complete";
      for (const link of document.querySelectorAll(".later")) link.hidden = !complete;
    } catch { /* The player says that the receiver is away. */ }
  }, 3000);
})();
