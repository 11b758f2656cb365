import { expect, test } from 'vitest';
import { byName } from './LanguageSelect';

test('languages go by their own names, and a code that nobody knows by itself', () => {
  expect(byName(['fr', 'de', 'ja'])).toEqual([['de', 'Deutsch'], ['fr', 'français'], ['ja', '日本語']]);
  expect(byName(['not a tag'])).toEqual([['not a tag', 'not a tag']]);
});
