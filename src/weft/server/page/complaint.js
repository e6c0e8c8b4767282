// What went wrong, as a sentence; where a key is missing it is asked for.

import { ApiError } from "./api.js";
import { at } from "./elements.js";
import { words } from "./language.js";

export function sentence(error) {
  if (!(error instanceof ApiError)) return words().broken;
  if (error.status === 401 && !at("key-dialog").open) at("key-dialog").showModal();
  return error.message;
}
