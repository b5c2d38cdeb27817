//! Headless Chromium, driven over WebDriver (W3C) through chromedriver.
//!
//! The client is a few lines over a socket: the crates for it bring some thirty others for five
//! commands.

#![allow(dead_code, reason = "each test that includes this uses a part of it")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A browser with one window; ends with this value.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: tempfile::TempDir,
}

/// What a page's player is doing.
#[derive(Clone, Debug)]
pub struct VideoState {
    /// Seconds played.
    pub time: f64,
    /// Seconds of the recording, infinite while it runs.
    pub duration: f64,
    /// True while it does not play.
    pub paused: bool,
    /// True once it played to the end.
    pub ended: bool,
    /// Points per row and rows of the picture.
    pub size: (u64, u64),
    /// Pictures shown since the page was opened.
    pub pictures: u64,
    /// The mean brightness of 8 upright stripes of the picture, left to right.
    pub stripes: Vec<f64>,
    /// Bytes of sound decoded.
    pub sound_bytes: u64,
    /// The root of the mean square of the sound since [`Browser::listen`], 0 to 1.
    pub rms: f64,
    /// The media error, if any.
    pub error: Option<String>,
}

/// One look at a player, by the page itself.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
pub struct Sample {
    /// Milliseconds of the page's own clock.
    pub at: f64,
    /// Seconds played.
    pub time: f64,
    /// Pictures shown since the page was opened.
    pub pictures: u64,
    /// The root of the mean square of the sound since [`Browser::listen`], 0 to 1.
    pub rms: f64,
}

impl Browser {
    /// Starts chromedriver on a free port and a window in it.
    pub fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver (package chromium-driver) starts");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let after = line.split("on port ").nth(1)?;
                let port = after.trim_end_matches('.').trim().parse::<u16>();
                port.ok().filter(|port| *port != 0)
            })
            .expect("chromedriver says its port");
        // A closed pipe would end the driver at its next word.
        std::thread::spawn(move || lines.for_each(drop));
        let mut browser = Self {
            driver,
            port,
            session: String::new(),
            _profile: profile,
        };
        let profile = browser._profile.path().display();
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".into(),
            "--disable-gpu".into(),
            "--no-first-run".into(),
            "--disable-background-networking".into(),
            "--disable-component-update".into(),
            "--disable-sync".into(),
            "--disable-dev-shm-usage".into(),
            "--autoplay-policy=no-user-gesture-required".into(),
            "--window-size=1100,900".into(),
            format!("--user-data-dir={profile}"),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": arguments },
        }}});
        let made = browser.call("POST", "/session", &wanted);
        browser.session = made["sessionId"].as_str().expect("a session").to_owned();
        browser
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let limit = Some(Duration::from_secs(60));
        socket.set_read_timeout(limit).unwrap();
        let body = if method == "POST" {
            body.to_string()
        } else {
            String::new()
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = BufReader::new(socket);
        let mut length = 0;
        loop {
            let mut line = String::new();
            answer.read_line(&mut line).unwrap();
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut text = vec![0; length];
        answer.read_exact(&mut text).unwrap();
        let mut value: Value = serde_json::from_slice(&text).unwrap();
        let value = value["value"].take();
        assert!(value["error"].is_null(), "{method} {path}: {value}");
        value
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.call("POST", &format!("/session/{}{path}", self.session), body)
    }

    /// Opens a page and waits for it to load.
    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// The value of a script's `return`.
    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// What the page logged, with errors of the network and of the content security policy.
    pub fn log(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({ "type": "browser" }));
        let entries = log.as_array().cloned().unwrap_or_default();
        let text = |entry: &Value| format!("{} {}", entry["level"], entry["message"]);
        entries.iter().map(text).collect()
    }

    /// Plays the video of this id.
    pub fn play(&self, id: &str) {
        self.run(&format!(
            "const v = document.getElementById('{id}'); v.play().catch((e) => {{ v.trouble = String(e); }});"
        ));
    }

    /// Measures the sound of the video of this id from now on.
    pub fn listen(&self, id: &str) {
        self.run(&format!(
            "const v = document.getElementById('{id}');
             const context = new AudioContext();
             v.meter = context.createAnalyser();
             context.createMediaElementSource(v).connect(v.meter);
             v.meter.connect(context.destination);
             context.resume();"
        ));
    }

    /// What the video of this id is doing.
    pub fn video_state(&self, id: &str) -> VideoState {
        let value = self.run(&format!(
            "const v = document.getElementById('{id}');
             const stripes = [];
             if (v.videoWidth) {{
               const c = document.createElement('canvas');
               c.width = 64; c.height = 8;
               const g = c.getContext('2d');
               g.drawImage(v, 0, 0, 64, 8);
               const d = g.getImageData(0, 0, 64, 8).data;
               for (let s = 0; s < 8; s++) {{
                 let sum = 0;
                 for (let y = 0; y < 8; y++) for (let x = 8 * s; x < 8 * s + 8; x++) {{
                   const p = 4 * (64 * y + x);
                   sum += (d[p] + d[p + 1] + d[p + 2]) / 3;
                 }}
                 stripes.push(sum / 64);
               }}
             }}
             let rms = 0;
             if (v.meter) {{
               const samples = new Float32Array(v.meter.fftSize);
               v.meter.getFloatTimeDomainData(samples);
               rms = Math.sqrt(samples.reduce((sum, s) => sum + s * s, 0) / samples.length);
             }}
             return {{
               time: v.currentTime,
               duration: Number.isFinite(v.duration) ? v.duration : -1,
               paused: v.paused, ended: v.ended,
               width: v.videoWidth, height: v.videoHeight,
               pictures: v.getVideoPlaybackQuality ? v.getVideoPlaybackQuality().totalVideoFrames : 0,
               sound: v.webkitAudioDecodedByteCount,
               stripes, rms,
               error: v.error ? v.error.message : (v.trouble || null),
             }};"
        ));
        let number = |name: &str| value[name].as_f64().unwrap_or(0.0);
        let count = |name: &str| value[name].as_u64().unwrap_or(0);
        let stripes = value["stripes"].as_array().cloned().unwrap_or_default();
        VideoState {
            time: number("time"),
            duration: match number("duration") {
                below if below < 0.0 => f64::INFINITY,
                duration => duration,
            },
            paused: value["paused"].as_bool().unwrap_or(true),
            ended: value["ended"].as_bool().unwrap_or(false),
            size: (count("width"), count("height")),
            pictures: count("pictures"),
            stripes: stripes.iter().filter_map(Value::as_f64).collect(),
            sound_bytes: count("sound"),
            rms: number("rms"),
            error: value["error"].as_str().map(str::to_owned),
        }
    }

    /// Lets the page look at the video of this id every 50 ms from now on: each question from here takes as
    /// long as the machine lets it.
    pub fn sample(&self, id: &str) {
        self.run(&format!(
            "const v = document.getElementById('{id}');
             v.samples = [];
             clearInterval(v.sampling);
             v.sampling = setInterval(() => {{
               let rms = 0;
               if (v.meter) {{
                 const samples = new Float32Array(v.meter.fftSize);
                 v.meter.getFloatTimeDomainData(samples);
                 rms = Math.sqrt(samples.reduce((sum, s) => sum + s * s, 0) / samples.length);
               }}
               v.samples.push({{
                 at: performance.now(), time: v.currentTime, rms,
                 pictures: v.getVideoPlaybackQuality().totalVideoFrames,
               }});
             }}, 50);"
        ));
    }

    /// What the page saw since then, in order.
    pub fn samples(&self, id: &str) -> Vec<Sample> {
        let samples = self.run(&format!("return document.getElementById('{id}').samples;"));
        serde_json::from_value(samples).unwrap()
    }

    /// The number burnt into the test pattern that the video of this id shows now.
    pub fn counter(&self, id: &str) -> Option<u32> {
        let (width, height) = (330, 32);
        let value = self.run(&format!(
            "const v = document.getElementById('{id}');
             if (!v.videoWidth) return [];
             const c = document.createElement('canvas');
             c.width = {width}; c.height = {height};
             const g = c.getContext('2d');
             g.drawImage(v, 0, 0, {width}, {height});
             const d = g.getImageData(0, 0, {width}, {height}).data;
             const luma = [];
             for (let p = 0; p < d.length; p += 4) luma.push(d[p + 1]);
             return luma;"
        ));
        let luma: Vec<u8> = serde_json::from_value(value).unwrap();
        hallcast::source::read_counter(&luma, width, height, width)
    }

    /// Makes the window this large, in points, and says whether the system's colours are dark.
    pub fn look(&self, width: u32, height: u32, dark: bool) {
        let command = |name: &str, params: &Value| {
            self.post(
                "/goog/cdp/execute",
                &json!({ "cmd": name, "params": params }),
            );
        };
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        command("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if dark { "dark" } else { "light" };
        let colours = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        command("Emulation.setEmulatedMedia", &colours);
    }

    /// Asks `ready` of the video's state again and again; the state that satisfied it, or a panic
    /// with the last one and the page's log after `seconds`.
    pub fn wait_for(
        &self,
        id: &str,
        seconds: u32,
        what: &str,
        mut ready: impl FnMut(&VideoState) -> bool,
    ) -> VideoState {
        let mut state = self.video_state(id);
        for _ in 0..10 * seconds {
            if ready(&state) {
                return state;
            }
            hallcast::clock::sleep(Duration::from_millis(100));
            state = self.video_state(id);
        }
        panic!(
            "{what}: not within {seconds} s; {state:?}; log: {:#?}",
            self.log()
        );
    }

    /// Plays the video of this id and asserts that time advances, pictures change and sound is not
    /// silent.
    pub fn assert_plays(&self, id: &str) -> VideoState {
        self.listen(id);
        self.play(id);
        let first = self.wait_for(id, 30, "a first picture", |state| {
            state.time > 0.0 && !state.stripes.is_empty() && state.stripes.iter().any(|s| *s > 1.0)
        });
        let mut loudest: f64 = 0.0;
        let mut changes: f64 = 0.0;
        self.wait_for(id, 30, "time, pictures and sound that go on", |state| {
            loudest = loudest.max(state.rms);
            let pairs = state.stripes.iter().zip(&first.stripes);
            let difference = pairs
                .map(|(now, then)| (now - then).abs())
                .fold(0.0, f64::max);
            changes = changes.max(difference);
            state.time > first.time + 1.5
                && state.pictures > first.pictures + 10
                && state.sound_bytes > 0
                && loudest > 0.01
                && changes > 20.0
        })
    }

    /// A picture of the window (PNG).
    pub fn screenshot(&self, path: &Path) {
        let value = self.call(
            "GET",
            &format!("/session/{}/screenshot", self.session),
            &Value::Null,
        );
        let text = value.as_str().unwrap();
        std::fs::write(path, decode_base64(text)).unwrap();
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut out) = (0u32, 0, Vec::new());
    for letter in text.bytes() {
        let Some(value) = LETTERS.iter().position(|known| *known == letter) else {
            continue;
        };
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the window, and with it its processes; then the driver.
        if !self.session.is_empty() && !std::thread::panicking() {
            self.call(
                "DELETE",
                &format!("/session/{}", self.session),
                &Value::Null,
            );
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
