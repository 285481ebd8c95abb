// What to do about an error, by its reason: one sentence that adds to what the server says.

const ADVICE = {
  GATE_QUALITY:
      'The artifact was measured and is worse than max KL allows. Give more bits, the trellis codec or error ' +
      'feedback, or raise the limit.',
  GATE_TARGET:
      'No rate of this codec reaches the target. Loosen the target or take another codec; the candidates below ' +
      'show what was reached.',
  GATE_COVERAGE: 'Not every tensor was quantized. The checkpoint may lack tensors that its config names.',
  GATE_RECONSTRUCTION: 'A tensor does not read back as it was. Look for weights that are not finite in the checkpoint.',
  TENSOR_NOT_FINITE: 'The checkpoint has weights that are infinite or not a number. Upload a sound copy.',
  STATISTICS_SINGULAR: 'Calibrate on more windows, or leave error feedback out.',
  FILTER_MATCHES_NOTHING: 'Look at the names of the tensors in the job and correct the pattern.',
  TARGET_TOO_SMALL: 'Ask for a larger size: norms and scales count, too.',
  TARGET_CONFLICT: 'Choose one of rate, ladder, size and quality.',
  TEXT_TOO_SHORT: 'Take fewer or shorter windows, or a longer text.',
  TEXT_NOT_FOUND: 'Upload the text first, or choose the built-in one.',
  TEXT_TEMPLATE_MISSING: 'This model has no chat template: choose plain text.',
  JOB_EXISTS: 'Open the job that is there, or change the settings.',
  DISK_FULL: 'Delete artifacts or checkpoints that nobody needs, or give the server a larger disk.',
  MODEL_LIMIT: 'Unload a model or start the server with a higher --memory-limit-mib.',
  KV_MEMORY: 'Load the model with a shorter context, or start the server with more --kv-mib.',
  CONTEXT_FULL: 'Shorten the conversation or load the model with a longer context.',
  PROMPT_TOO_LONG: 'Shorten the text or load the model with a longer context.',
  QUEUE_FULL: 'The server is busy. Try again in a moment.',
  SERVER_BUSY: 'The server is busy. Try again in a moment.',
  SHUTTING_DOWN: 'The server is being restarted. Try again in a moment.',
  MODEL_IN_ALIAS: 'Take the model out of its alias first.',
  ARTIFACT_IN_USE: 'Unload the model or wait for the job that uses it.',
  CHECKPOINT_IN_USE: 'Unload the model or wait for the job that uses it.',
  MODEL_NAME_TAKEN: 'Choose another name, or unload the model that has it.',
  MODEL_NOT_FOUND: 'Load it on the page Models.',
  CHAT_TEMPLATE_MISSING: 'This model has no chat template. Switch the chat to plain text.',
  ETAG_MISMATCH: 'Somebody changed it meanwhile. Look at it again.',
  IMPORT_DISABLED: 'Start the server with --import-root, or upload the files here.',
  FILE_TYPE_UNSUPPORTED: 'Only safetensors and GGUF are read. Convert the checkpoint first.',
  UPLOAD_DIGEST: 'The file changed while it was sent. Choose it again.',
  WORKER_LOST: 'The worker died several times at this task. Look into its log, then retry.',
  KEY_REVOKED: 'Enter another key.',
  KEY_LIMIT: 'This key has used up what it may for now.',
  LAST_ADMIN_KEY: 'Make another key with the scope admin first.',
};

const BY_STATUS = {
  UNAUTHENTICATED: 'Enter an API key with the button at the top.',
  PERMISSION_DENIED: 'The key lacks a scope. Enter another one, or ask an administrator.',
  UNAVAILABLE: 'Try again in a moment.',
  UNIMPLEMENTED: 'This server cannot do that.',
};

export function adviceFor(error) {
  return ADVICE[error?.reason] ?? BY_STATUS[error?.status] ?? '';
}
