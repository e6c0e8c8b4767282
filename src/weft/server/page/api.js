// The server: requests with a key, and the events of streams.

const KEY = "weft-key";

let key = "";
try { key = sessionStorage.getItem(KEY) ?? ""; } catch { /* then there is none */ }

// What no key holds, such as spaces of no width that came along when it was copied, no request can carry.
export function setKey(text) {
  key = text.replace(/[^!-~]/g, "");
  try { sessionStorage.setItem(KEY, key); } catch { /* browsers may forbid it: it is known until the page is left */ }
}

const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});

export class ApiError extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.param = error.param;
  }
}

async function checked(response) {
  if (response.ok) return response;
  let error = { message: `HTTP ${response.status}` };
  try { error = (await response.json()).error ?? error; } catch { /* a proxy's page */ }
  throw new ApiError(response.status, error);
}

export async function get(path) {
  return (await checked(await fetch(path, { headers: headers() }))).json();
}

async function send(path, body, signal) {
  return checked(await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json", ...headers() }, body: JSON.stringify(body), signal,
  }));
}

export async function post(path, body, signal) {
  return (await send(path, body, signal)).json();
}

// The JSON events of a streamed answer. Raises ApiError, also for an error that comes in the middle.
export async function* stream(path, body, signal) {
  // One event may hold several tokens: only the server can count them.
  const counted = { stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
  const response = await send(path, { ...body, ...counted }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new TypeError("the stream broke off");
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(500, event.error);
      yield event;
    }
  }
}
