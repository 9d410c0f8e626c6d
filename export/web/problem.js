/** What went wrong, as a sentence for whoever uses the page. */
export class Problem extends Error {
  name = "Problem";
}

/** Any error as one line. */
export function sentence(error) {
  if (error instanceof Problem || error?.name === "Problem") return error.message;
  return `This should not have happened: ${error?.message || error}`;
}
