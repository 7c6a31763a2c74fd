/**
 * What the browser gets in place of the Agora SDK's chunk: the calls the client makes of it, written down in
 * `window.agora`, and pictures on the screen. The other side comes in as soon as one has joined.
 */
const said = (window.agora = []);
const say = (what, ...details) => said.push([what, ...details]);

function show(stage, stream, mirrored) {
  const video = document.createElement("video");
  Object.assign(video, { autoplay: true, muted: true, playsInline: true, srcObject: stream });
  Object.assign(video.style, {
    width: "100%",
    height: "100%",
    objectFit: "cover",
    transform: mirrored ? "scaleX(-1)" : "none",
  });
  stage.replaceChildren(video);
}

/** Somebody before a wall, breathing at two pictures a second, which costs little. */
function portrait() {
  const canvas = Object.assign(document.createElement("canvas"), { width: 960, height: 720 });
  const brush = canvas.getContext("2d");
  const draw = () => {
    const breath = Math.sin(performance.now() / 900) * 6;
    const wall = brush.createLinearGradient(0, 0, 960, 720);
    wall.addColorStop(0, "#f0d9c4");
    wall.addColorStop(1, "#b98d74");
    brush.fillStyle = wall;
    brush.fillRect(0, 0, 960, 720);
    brush.save();
    brush.translate(120, 180);
    brush.scale(0.75, 0.75);
    brush.fillStyle = "#2f5d62";
    brush.beginPath();
    brush.ellipse(480, 780 + breath, 300, 270, 0, 0, 7);
    brush.fill();
    brush.fillStyle = "#8d5a3c";
    brush.fillRect(430, 440 + breath, 100, 110);
    brush.fillStyle = "#a56b48";
    brush.beginPath();
    brush.ellipse(480, 340 + breath, 125, 155, 0, 0, 7);
    brush.fill();
    brush.fillStyle = "#2b211e";
    brush.beginPath();
    brush.ellipse(480, 250 + breath, 140, 105, 0, Math.PI, 0);
    brush.fill();
    brush.restore();
  };
  draw();
  setInterval(draw, 500);
  return canvas.captureStream();
}

class Track {
  constructor(kind, stream) {
    this.trackMediaType = kind;
    this.stream = stream;
  }

  play(stage) {
    if (stage) show(stage, this.stream, true);
  }

  async setMuted(muted) {
    say("muted", this.trackMediaType, muted);
  }

  close() {
    for (const track of this.stream.getTracks()) track.stop();
    say("closed", this.trackMediaType);
  }
}

class Client {
  listeners = {};

  on(event, listener) {
    (this.listeners[event] ??= []).push(listener);
  }

  removeAllListeners() {
    this.listeners = {};
  }

  emit(event, ...details) {
    for (const listener of this.listeners[event] ?? []) listener(...details);
  }

  async join(appId, channel, token, uid) {
    say("join", appId, channel, token, uid);
    const stream = portrait();
    const other = {
      uid: 3 - uid,
      hasVideo: true,
      hasAudio: true,
      videoTrack: { play: (stage) => show(stage, stream, false) },
      audioTrack: { play: () => say("heard") },
    };
    setTimeout(() => {
      this.emit("user-joined", other);
      this.emit("user-published", other, "video");
      this.emit("user-published", other, "audio");
    });
    return uid;
  }

  async publish(tracks) {
    say("publish", ...tracks.map((track) => track.trackMediaType));
  }

  async subscribe(user, kind) {
    say("subscribe", kind);
  }

  async renewToken(token) {
    say("renewToken", token);
  }

  async leave() {
    say("leave");
  }
}

export default {
  setLogLevel: () => undefined,
  createClient: () => new Client(),
  createMicrophoneAudioTrack: async () =>
    new Track("audio", await navigator.mediaDevices.getUserMedia({ audio: true })),
  createCameraVideoTrack: async () => new Track("video", await navigator.mediaDevices.getUserMedia({ video: true })),
};
