//! A question, its answers, and the solved examples in front of it.

/// What stands between an example and what follows it.
const BETWEEN_EXAMPLES: &str = "\n\n";

/// A question with the answers to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What stands before the first example and the question: the description of an MMLU subject.
    pub description: String,
    /// The name of its subject, as "abstract algebra"; empty where a data set has none.
    pub subject: String,
    /// The answers, at least one.
    pub choices: Vec<Choice>,
    /// The number of the right one, from 0.
    pub gold: usize,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What the model is given.
    pub context: String,
    /// What its likelihood is asked of, with the space that parts it from the context.
    pub continuation: String,
    /// Characters of the answer, by which accuracy by length divides.
    pub characters: usize,
}

impl Question {
    /// A question with one context; an answer follows it after a space.
    ///
    /// # Panics
    /// If `gold` is not the number of an answer.
    pub(super) fn new(context: &str, answers: &[impl AsRef<str>], gold: usize) -> Self {
        assert!(gold < answers.len(), "the right answer is one of the answers");
        let choice = |answer: &str| Choice {
            context: context.to_owned(),
            continuation: format!(" {answer}"),
            characters: answer.chars().count(),
        };
        Self {
            description: String::new(),
            subject: String::new(),
            choices: answers.iter().map(|answer| choice(answer.as_ref())).collect(),
            gold,
        }
    }

    /// The question with its right answer, as an example for others.
    fn solved(&self) -> String {
        let choice = &self.choices[self.gold];
        format!("{}{}{BETWEEN_EXAMPLES}", choice.context, choice.continuation)
    }
}

/// The questions of a run, each with its examples.
#[derive(Clone, Debug)]
pub struct TaskSet {
    questions: Vec<Question>,
    /// Questions of each subject, in order.
    subjects: Vec<usize>,
    /// Examples in front of the question that has the fewest.
    fewest_examples: usize,
}

impl TaskSet {
    /// The first `limit` questions of each subject (all of them without one), with `few_shot` solved examples in front.
    ///
    /// Examples are the first of `examples` of the same subject; without `examples`, the first questions of the set itself other
    /// than the one that is asked. (The harness takes the first for MMLU, and draws them at random for other tasks.)
    pub fn new(questions: Vec<Question>, limit: Option<usize>, few_shot: usize, examples: Option<&[Question]>) -> Self {
        let (mut asked, mut subjects, mut fewest_examples) = (Vec::new(), Vec::new(), few_shot);
        for subject in questions.chunk_by(|a, b| a.description == b.description) {
            let count = subject.len().min(limit.unwrap_or(usize::MAX));
            for (number, question) in subject[..count].iter().enumerate() {
                let front: Vec<String> = match examples {
                    Some(examples) => examples
                        .iter()
                        .filter(|example| example.description == question.description)
                        .take(few_shot)
                        .map(Question::solved)
                        .collect(),
                    None => (0..subject.len())
                        .filter(|&other| other != number)
                        .take(few_shot)
                        .map(|other| subject[other].solved())
                        .collect(),
                };
                fewest_examples = fewest_examples.min(front.len());
                let front = front.concat();
                let mut question = question.clone();
                for choice in &mut question.choices {
                    choice.context = format!("{}{front}{}", question.description, choice.context);
                }
                asked.push(question);
            }
            if count > 0 {
                subjects.push(count);
            }
        }
        Self {
            questions: asked,
            subjects,
            fewest_examples,
        }
    }

    /// The questions, their contexts whole.
    pub fn questions(&self) -> &[Question] {
        &self.questions
    }

    /// Examples in front of the question that has the fewest: as many as were asked for, if there are so many.
    pub fn fewest_examples(&self) -> usize {
        self.fewest_examples
    }

    /// Numbers of questions of the subjects, in order.
    pub fn subjects(&self) -> &[usize] {
        &self.subjects
    }
}
