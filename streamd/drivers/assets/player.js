// The page at /live/NAME: plays NAME.flv from the same server and says in one line what is going on.
// data-state of <main> is its phase: waiting, playing, reconnecting, ended, unsupported.
"use strict";

(() => {
  const main = document.querySelector("main");
  const video = document.getElementById("picture");
  const status = document.getElementById("status");
  const heading = document.querySelector("h1");
  const unmute = document.getElementById("unmute");
  const name = main.dataset.name;

  const STALL = 4000; // ms without progress after which the viewer is told that we wait for the publisher
  const RETRY_FIRST = 1000; // ms to the first new attempt; doubled up to RETRY_MOST
  const RETRY_MOST = 8000;

  let player = null;
  let seen = false; // has this page ever shown a picture
  let delay = RETRY_FIRST;
  let timer = 0;
  let finishing = false; // the broadcast is over, and what has been loaded still plays
  let moved = 0; // when playback last made progress
  let place = 0;

  const SENTENCES = {
    waiting: "Waiting for the broadcast to begin",
    playing: "Live",
    reconnecting: "Waiting for the broadcast to come back",
    ended: "The broadcast has ended; it will play here when it comes back",
    unsupported: "This browser cannot play live FLV; open the address in a player instead",
  };

  function say(phase) {
    if (main.dataset.state === phase) return;
    main.dataset.state = phase;
    status.textContent = SENTENCES[phase];
  }

  function retitle(values) {
    const title = values && (values.title || values.StreamTitle || values.streamTitle);
    if (typeof title !== "string" || !title.trim()) return;
    heading.textContent = title;
    document.title = `${title} - ${name}`;
  }

  function stop() {
    if (!player) return;
    const old = player;
    player = null;
    finishing = false;
    old.destroy();
  }

  function again(phase) {
    stop();
    say(phase);
    clearTimeout(timer);
    timer = setTimeout(start, delay);
    delay = Math.min(delay * 2, RETRY_MOST);
  }

  function finish() {
    if (!seen) again("waiting");
    else if (video.paused) again("ended");
    else finishing = true; // until the video has ended, or stands still
  }

  function start() {
    stop();
    const mine = mpegts.createPlayer(
      { type: "flv", isLive: true, url: `${location.pathname.replace(/\/+$/, "")}.flv` },
      { lazyLoad: false, liveSync: true, liveSyncMaxLatency: 3, liveSyncTargetLatency: 1.5, autoCleanupSourceBuffer: true,
        autoCleanupMaxBackwardDuration: 60, autoCleanupMinBackwardDuration: 30, deferLoadAfterSourceOpen: false },
    );
    player = mine;
    mine.on(mpegts.Events.ERROR, (kind, detail, info) => {
      if (player !== mine) return;
      const missing = info && info.code === 404; // nothing is live under this name
      again(!seen ? "waiting" : missing ? "ended" : "reconnecting");
    });
    mine.on(mpegts.Events.LOADING_COMPLETE, () => player === mine && finish());
    mine.on(mpegts.Events.METADATA_ARRIVED, retitle);
    mine.attachMediaElement(video);
    mine.load();
    moved = performance.now();
    const playing = mine.play();
    if (playing && playing.catch) playing.catch(() => {}); // autoplay refused: the controls are there
  }

  function progress() {
    if (!player || video.currentTime === place) return;
    place = video.currentTime;
    moved = performance.now();
    seen = true;
    delay = RETRY_FIRST;
    say("playing");
    showUnmute();
  }

  function watch() {
    if (!player || performance.now() - moved <= STALL) return;
    if (finishing) again("ended");
    else if (!video.paused && main.dataset.state === "playing") say("reconnecting");
  }

  function showUnmute() {
    unmute.hidden = !(seen && video.muted);
  }

  mpegts.LoggingControl.enableAll = false;
  video.muted = true;
  video.disableRemotePlayback = true; // ManagedMediaSource of iOS asks for it
  video.addEventListener("timeupdate", progress);
  video.addEventListener("ended", () => finishing && again("ended"));
  video.addEventListener("volumechange", showUnmute);
  unmute.addEventListener("click", () => {
    video.muted = false;
    video.focus();
    video.play().catch(() => {});
  });
  if (!mpegts.getFeatureList().mseLivePlayback) {
    say("unsupported");
    return;
  }
  setInterval(watch, 1000);
  start();
})();
